"""Views, dims and indices that do not suit their tensor, and fixed batch sizes."""
