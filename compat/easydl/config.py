"""EasyDL's settings of what happens at the end of an epoch."""


class CommonCallbackConfig:
    """Where files of weights go, and after how many epochs one is written (0: the first alone)."""

    save_model_every_n_epochs = 1
    save_model_dir = ""
