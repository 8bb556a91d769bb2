"""Registered trainers; importing this package registers the built-in ones."""

import artplus.trainers.published as published
import artplus.trainers.text as text
import artplus.trainers.vision as vision
from artplus.trainers._base import Recipe as Recipe
from artplus.trainers._base import list_trainers as list_trainers
from artplus.trainers._base import make_recipe as make_recipe
from artplus.trainers._base import register_trainer as register_trainer
from artplus.trainers._base import trainers as trainers

__all__ = [
    "Recipe",
    "list_trainers",
    "make_recipe",
    "published",
    "register_trainer",
    "text",
    "trainers",
    "vision",
]
