"""Services that are bound to hardware which a virtual machine does not have, and why each has no place in one.

Known by unit name without its suffix (systemd) or by script name (SysV, OpenRC). Used when the source is inspected (Python
3.6) and when its copy is repaired. Harmless ones (irqbalance, acpid, microcode) are not listed.
"""
import fnmatch

_SENSORS = "reads sensors of the mainboard"
_DISK = "watches or tunes physical disks; virtual ones have no SMART and no such settings"
_BMC = "talks to the management controller (BMC)"
_ERRORS = "decodes hardware errors of CPU and memory, which the hypervisor keeps to itself"
_UPS = "watches a UPS and could shut the VM down when it cannot reach it"
_POWER = "tunes the power saving of real hardware"
_GPU = "drives a GPU that is not there"
_RADIO = "drives radio hardware that is not there"
_FABRIC = "drives a storage or cluster adapter that is not there"
_CLOCK = "steers a hardware clock of the network card"
_WATCHDOG = "feeds a hardware watchdog that is not there"
_VENDOR = "agent of the server's vendor for hardware that is not there"

TABLE = (  # (pattern of the name, reason)
    ("mcelog", _ERRORS), ("rasdaemon", _ERRORS), ("ras-mc-ctl", _ERRORS), ("edac", _ERRORS),
    ("smartd", _DISK), ("smartmontools", _DISK), ("hddtemp", _DISK), ("hdparm", _DISK),
    ("ipmi", _BMC), ("ipmievd", _BMC), ("openipmi", _BMC), ("ipmidetectd", _BMC), ("bmc-watchdog", _BMC),
    ("bmc-snmp-proxy", _BMC), ("exchange-bmc-os-info", _BMC),
    ("lm_sensors", _SENSORS), ("lm-sensors", _SENSORS), ("sensord", _SENSORS), ("fancontrol", _SENSORS), ("thinkfan", _SENSORS),
    ("thermald", _POWER), ("tlp", _POWER), ("cpupower", _POWER), ("cpufrequtils", _POWER), ("loadcpufreq", _POWER),
    ("laptop-mode", _POWER), ("powertop", _POWER),
    ("fwupd", "updates firmware of real hardware"), ("fwupd-refresh", "updates firmware of real hardware"),
    ("bolt", "manages Thunderbolt ports"),
    ("multipathd", "joins several paths to a SAN disk; the VM has one path"),
    ("dmraid-activation", "activates RAID of the mainboard's controller"), ("fcoe", _FABRIC), ("lldpad", _FABRIC),
    ("fcoemon", _FABRIC), ("openibd", _FABRIC), ("rdma-*", _FABRIC), ("opensm", _FABRIC), ("mst", _FABRIC),
    ("srp_daemon", _FABRIC), ("PowerPath", _FABRIC), ("emcp*", _FABRIC), ("qla*-init", _FABRIC), ("elxhbamgrd", _FABRIC),
    ("nvidia-persistenced", _GPU), ("nvidia-powerd", _GPU), ("nvidia-fabricmanager", _GPU), ("nvidia-dcgm", _GPU),
    ("bluetooth", _RADIO), ("wpa_supplicant", _RADIO), ("iwd", _RADIO), ("ModemManager", _RADIO), ("gpsd", _RADIO),
    ("ptp4l", _CLOCK), ("phc2sys", _CLOCK), ("timemaster", _CLOCK),
    ("watchdog", _WATCHDOG), ("wd_keepalive", _WATCHDOG),
    ("apcupsd", _UPS), ("nut-monitor", _UPS), ("nut-server", _UPS), ("nut-client", _UPS), ("nut-driver*", _UPS), ("upsd", _UPS),
    ("upsmon", _UPS), ("pwrstatd", _UPS), ("powerpanel", _UPS),
    ("kudzu", "rewrites the configuration when hardware changes"),
    ("amsd", _VENDOR), ("smad", _VENDOR), ("smad_rev", _VENDOR), ("ahslog", _VENDOR), ("mr_cpqScsi", _VENDOR),
    ("hp-health", _VENDOR), ("hp-asrd", _VENDOR), ("hp-snmp-agents", _VENDOR), ("hpsmhd", _VENDOR), ("hp-ams", _VENDOR),
    ("dataeng", _VENDOR), ("dsm_sa_*", _VENDOR), ("dsm_om_*", _VENDOR), ("instsvcdrv", _VENDOR), ("dcismeng", _VENDOR),
    ("racsvc", _VENDOR), ("srvmagt*", _VENDOR), ("eecd", _VENDOR), ("vivaldiframeworkd", _VENDOR), ("lsi_mrdsnmpd", _VENDOR),
    ("MegaRAID*", _VENDOR), ("arcconf*", _VENDOR), ("mpt-statusd", _VENDOR), ("megaclisas-statusd", _VENDOR),
)  # fmt: skip


def reason(name: str) -> str:
    """Why the service has no place in a VM, or empty. ``name``: "smartd.service", "multipathd.socket", "lm-sensors"."""
    base = name
    for suffix in (".service", ".socket", ".timer", ".path", ".target"):
        if base.endswith(suffix):
            base = base[:-len(suffix)]
            break
    base = base.partition("@")[0]
    for pattern, why in TABLE:
        if fnmatch.fnmatchcase(base, pattern):
            return why
    return ""
