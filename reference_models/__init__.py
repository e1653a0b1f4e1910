"""The two small networks that cnnprobe is shown and tested on, with their data and their training,
as a user would write them.

Importing this package costs torch and nothing else. `reference_models.data` needs torchvision, its
offline images scikit-image or scikit-learn; `python -m reference_models.train` needs tqdm as well.
"""

from reference_models.models import CNNModel, CNNModelAsWritten, ConvLayer, SimpleCNN

__all__ = ["CNNModel", "CNNModelAsWritten", "ConvLayer", "SimpleCNN"]
