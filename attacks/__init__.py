"""RADBench's attacks: one file each, on one objective (`objective`) inside one threat model (`threat`)."""

from attacks.base import Attack
from attacks.errors import AttackError, AttackWarning, ThreatModelError
from attacks.pgd import PGD
from attacks.registry import get, names, register
from attacks.result import AttackResult
from attacks.threat import L2, LInf, ThreatModel
from attacks.threat_others import CorruptionsUpTo, Patch, SemanticRange

__all__ = [
    "L2",
    "PGD",
    "Attack",
    "AttackError",
    "AttackResult",
    "AttackWarning",
    "CorruptionsUpTo",
    "LInf",
    "Patch",
    "SemanticRange",
    "ThreatModel",
    "ThreatModelError",
    "get",
    "names",
    "register",
]
