"""`catalog://NAME`: the older names of pre-trained backbones, as yaml files of the first Detectron wrote them."""

from typing import Any

from iopath.common.file_io import PathHandler

from detectron2.utils.file_io import PathManager


class ModelCatalog:
    """Names of ImageNet backbones to their URLs."""

    S3_C2_DETECTRON_PREFIX = "https://dl.fbaipublicfiles.com/detectron"
    C2_IMAGENET_MODELS = {
        "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
        "FAIR/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
        "FAIR/X-101-64x4d": "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
    }

    @staticmethod
    def get(name: str) -> str:
        """The URL of "ImageNetPretrained/MSRA/R-50" and the like.

        Raises:
            RuntimeError: the name is not known.
        """
        model = name.removeprefix("ImageNetPretrained/")
        if model == name or model not in ModelCatalog.C2_IMAGENET_MODELS:
            known = ", ".join("ImageNetPretrained/" + key for key in ModelCatalog.C2_IMAGENET_MODELS)
            raise RuntimeError(f"catalog://{name} is unknown; known: {known}")
        return f"{ModelCatalog.S3_C2_DETECTRON_PREFIX}/{ModelCatalog.C2_IMAGENET_MODELS[model]}"


class ModelCatalogHandler(PathHandler):
    """Resolves `catalog://` paths."""

    PREFIX = "catalog://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = ModelCatalog.get(path.removeprefix(self.PREFIX))
        return PathManager.get_local_path(url, force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        return PathManager.open(self._get_local_path(path), mode, buffering, **kwargs)


PathManager.register_handler(ModelCatalogHandler())
