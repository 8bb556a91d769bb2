"""What predictions and targets mean, one task a file; importing this package registers them."""

from artplus.tasks._base import Gap as Gap
from artplus.tasks._base import Metric as Metric
from artplus.tasks._base import Task as Task
from artplus.tasks._base import list_tasks as list_tasks
from artplus.tasks._base import logits_of as logits_of
from artplus.tasks._base import make_task as make_task
from artplus.tasks._base import ratio as ratio
from artplus.tasks._base import register_task as register_task
from artplus.tasks._infer import task_for as task_for
from artplus.tasks.causal_lm import CausalLM as CausalLM
from artplus.tasks.classification import Classification as Classification
from artplus.tasks.ctc import CTC as CTC
from artplus.tasks.detection import Detection as Detection
from artplus.tasks.features import Features as Features
from artplus.tasks.features import features_of as features_of
from artplus.tasks.multilabel import Multilabel as Multilabel
from artplus.tasks.preference import Preference as Preference
from artplus.tasks.preference_data import PreferenceCollator as PreferenceCollator
from artplus.tasks.regression import Regression as Regression
from artplus.tasks.segmentation import Segmentation as Segmentation

__all__ = [
    "CTC",
    "CausalLM",
    "Classification",
    "Detection",
    "Features",
    "Gap",
    "Metric",
    "Multilabel",
    "Preference",
    "PreferenceCollator",
    "Regression",
    "Segmentation",
    "Task",
    "features_of",
    "list_tasks",
    "logits_of",
    "make_task",
    "ratio",
    "register_task",
    "task_for",
]
