"""Methods of continual learning on a stream of documents: levels, and the baselines."""

from nestling.continual.methods.gradient import GradientMethod as GradientMethod
from nestling.continual.methods.in_context import InContext as InContext
from nestling.continual.methods.levels import Levels as Levels
from nestling.continual.methods.method import Gateable as Gateable
from nestling.continual.methods.method import Method as Method
from nestling.continual.methods.retrieval import Retrieval as Retrieval
