"""Defenses that change the data before the client computes with them (survey, section 3.1): mixing, pixelization."""

from gilearn.defenses.data.mixing import InstaHide, MixUp, MixupInference
from gilearn.defenses.data.pixelization import DPBlur, DPPix, blurred, cells

__all__ = ["DPBlur", "DPPix", "InstaHide", "MixUp", "MixupInference", "blurred", "cells"]
