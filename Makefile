# Each target installs what it needs (Debian 12 packages, then .venv); all of them but "lint" and "unit" take minutes.
# Root is needed for loop devices and mmdebstrap: as another user, sudo is asked for it.
.DEFAULT_GOAL := help
.PHONY: help install packages demo test unit lint bench clean-lab

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
PYTHON := .venv/bin/python

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

install: packages .venv/.installed  ## the command, at .venv/bin/livep2v

packages:
	@sh scripts/install-packages.sh

# System site packages: libguestfs has its Python binding there and nowhere else
.venv/.installed: pyproject.toml | packages
	[ -x $(PYTHON) ] || /usr/bin/python3 -m venv --system-site-packages .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install  ## convert a machine under load, boot the VM, print the proof
	$(SUDO) $(PYTHON) -m lab.demo

test: install  ## everything: linters, unit tests, faults, conversions of real guests
	$(SUDO) $(PYTHON) -m pytest

unit: install  ## all tests that boot no guest
	$(SUDO) $(PYTHON) -m pytest -m 'not machine'

lint: install  ## ruff, mypy, vermin, the layer rule
	$(PYTHON) -m pytest tests/test_linters.py

bench: install  ## the figures of docs/measurements.md, measured now
	$(SUDO) $(PYTHON) -m bench

clean-lab:  ## drop the cached lab machines
	[ ! -x $(PYTHON) ] || $(SUDO) $(PYTHON) -m lab clean
