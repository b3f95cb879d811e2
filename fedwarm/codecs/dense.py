"""The codec `dense`."""

from fedwarm.codecs import Codec


class Dense(Codec):
    """No compression: arrays are sent as they are."""

    codes = False


COMPONENT = Dense
