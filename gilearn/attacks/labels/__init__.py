"""Label extraction (survey, section 2.1.1): read the labels off the gradient of the last fully connected layer.

With cross-entropy, row c of that layer's weight gradient is the batch mean of (p_c - [y = c]) h: the probability of
class c, less one for the examples that have it, times the features h. All rules live on that sign. They compute in
float64 on the CPU and return a batch's labels in ascending order, since no gradient knows the order of its examples. An
update after local steps is read as the mean gradient of these steps. Of a sequence model every place is an example.

In a search the labels are a factor like the space of inputs: a rule gives :class:`Fixed` ones, :class:`Joint` searches.
"""

from gilearn.attacks.labels.bag_of_words import RLG
from gilearn.attacks.labels.base import Declared, Fixed, Joint, LabelFactor, LabelRule, as_factor
from gilearn.attacks.labels.batch import ILRG, LLG, LLGPlus, LLGStar, RowMinimum, counts_system
from gilearn.attacks.labels.head import last_layer, last_layer_gradient, last_linear
from gilearn.attacks.labels.single import IDLG

__all__ = [
    "IDLG",
    "ILRG",
    "LLG",
    "RLG",
    "Declared",
    "Fixed",
    "Joint",
    "LLGPlus",
    "LLGStar",
    "LabelFactor",
    "LabelRule",
    "RowMinimum",
    "as_factor",
    "counts_system",
    "last_layer",
    "last_layer_gradient",
    "last_linear",
]
