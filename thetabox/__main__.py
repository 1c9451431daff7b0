"""``python -m thetabox`` is the ``thetabox`` command."""

from thetabox.cli import main

if __name__ == "__main__":
    main()
