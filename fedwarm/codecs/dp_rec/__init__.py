"""DP-REC: relative entropy coding of updates under differential privacy (Triastcyn et al., arXiv 2111.05454, 2021)."""

from fedwarm.codecs.dp_rec.codec import Private

COMPONENT = Private
