"""What a client can do about leakage (survey, section 3), by the place where it acts: here, on the model."""

from gilearn.defenses.model import Polarization

__all__ = ["Polarization"]
