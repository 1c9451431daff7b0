"""Leaky cells found in the traced graph of a network, without a word from its author."""

from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.recognise import Recognised, looks_spiking, recognised

__all__ = ["NotRecognised", "Recognised", "looks_spiking", "recognised"]
