"""Steps: how the weights are updated on one batch."""

from artplus.training.steps._base import Gradients as Gradients
from artplus.training.steps._base import Step as Step
from artplus.training.steps.awp import AWP as AWP
from artplus.training.steps.free import Free as Free
from artplus.training.steps.free_lb import FreeLB as FreeLB
from artplus.training.steps.retry_on_oom import RetryOnOOM as RetryOnOOM
from artplus.training.steps.standard import standard as standard
from artplus.training.steps.tavat import TAVAT as TAVAT

__all__ = ["AWP", "TAVAT", "Free", "FreeLB", "Gradients", "RetryOnOOM", "Step", "standard"]
