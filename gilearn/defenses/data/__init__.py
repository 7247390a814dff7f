"""Defenses that change the data before the client computes with them (survey, section 3.1): ``mixing``."""

from gilearn.defenses.data.mixing import InstaHide, MixUp, MixupInference

__all__ = ["InstaHide", "MixUp", "MixupInference"]
