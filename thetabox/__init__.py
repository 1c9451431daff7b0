"""thetabox: proves how much every weight of a trained network may be off before a prediction can change.

Names are imported when they are first used: a command line that asks for help need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
