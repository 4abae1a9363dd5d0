from mnist_cnn_train.experiments.dvc import arguments


def test_arguments_are_those_of_dvc() -> None:
    changes = {"train.train_on_validation": True, "train.optimizer": "adamw", "a.b": 1e-4}
    settings = ("train.train_on_validation=true", "train.optimizer=adamw", "a.b=0.0001")
    assert arguments(changes) == [word for setting in settings for word in ("-S", setting)]
