"""What goes wrong in an attack, as sentences for the user."""


class AttackError(Exception):
    """An attack cannot do what was asked; the text says why and what to do."""


class AttackWarning(UserWarning):
    """An attack gave back clean images for a reason that is none of the detector's robustness."""


class ThreatModelError(AttackError):
    """An image is outside the threat model, or a threat model makes no sense."""


class GradientCutError(AttackError):
    """A detector's score does not depend on its input as far as autograd can see."""
