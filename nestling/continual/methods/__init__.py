"""Ways to go on learning from a stream of documents: levels, and what they are measured against."""

from nestling.continual.methods.gradient import GradientMethod as GradientMethod
from nestling.continual.methods.in_context import InContext as InContext
from nestling.continual.methods.levels import Levels as Levels
from nestling.continual.methods.method import Gateable as Gateable
from nestling.continual.methods.method import Method as Method
from nestling.continual.methods.retrieval import Retrieval as Retrieval
