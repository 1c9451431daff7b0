"""Before any proof: the graph that is bounded is the module that runs."""

from thetabox.verify.agreement.batches import FEW
from thetabox.verify.agreement.claims import check_logits, check_margins
from thetabox.verify.agreement.compare import Agreement, check, checked_problem
from thetabox.verify.agreement.points import FAR

__all__ = ["FAR", "FEW", "Agreement", "check", "check_logits", "check_margins", "checked_problem"]
