"""The task's loss alone."""

from fedwarm.objectives import Objective

COMPONENT = Objective("the task's loss alone")
