"""Gen-FedSD: Morafah, Reisser, Lin, Louizos, "Stable Diffusion-based Data Augmentation for Federated Learning with Non-IID Data",
arXiv 2405.07925 (2024): FedAvg with the augmentation of this name.
"""

from fedwarm.methods import Method

COMPONENT = Method(
    "GenFedSd", "FedAvg with generated images of the classes that each client lacks (Morafah et al., 2024)",
    preset={"augment": "gen-fedsd"}, stacks=True,
)  # fmt: skip
