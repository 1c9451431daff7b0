"""Parts of :mod:`thetabox.verify.network.rolled`."""
