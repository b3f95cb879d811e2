"""The codec `dense`."""

from fedwarm.codecs import Codec


class Dense(Codec):
    """Arrays travel as they are."""

    codes = False


COMPONENT = Dense
