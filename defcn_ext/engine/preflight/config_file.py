"""From a yaml file and KEY VALUE pairs to a config, or to one line that names the file and the key."""

import difflib
import functools
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml

from defcn_ext.config import UserError, add_defcn_config, flat_keys
from defcn_ext.data.register import FORM, KEY
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .values import check_types

logger = logging.getLogger(__name__)

UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")
BASE = "_BASE_"


def load_config(config_file: str | dict[str, Any], opts: Sequence[str], name: str = "") -> CfgNode:
    """The frozen config of this project's keys, a file and overrides ("KEY value ...").

    Without a GPU, MODEL.DEVICE "cuda" becomes "cpu", with one warning a process.

    Args:
        config_file: path, or what such a file says, as nested dicts; "" for none.
        name: what to call the dicts in errors.

    Raises:
        UserError: the file is missing or no config, or a key is unknown or has a value of another type.
    """
    cfg = get_cfg()
    add_defcn_config(cfg)
    if isinstance(config_file, str) and config_file and not PathManager.isfile(config_file):
        raise UserError(f"--config-file {config_file}: no such file")
    late = [word for word in opts if word.startswith("--")]
    if late:
        raise UserError(f"{late[0]} stands behind KEY VALUE pairs: put all options before the first pair")
    if isinstance(config_file, dict):
        _merge(cfg, lambda: cfg.merge_from_other_cfg(CfgNode(config_file)), f"{name}: ")
    elif config_file:
        _check_files(config_file, cfg)
        _merge(cfg, lambda: cfg.merge_from_file(config_file), f"{config_file}: ")
        name = config_file
    _merge(cfg, lambda: cfg.merge_from_list(_with_lists(opts)))
    _merge(cfg, lambda: check_types(cfg), f"{name}: " if name and not opts else "")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _tell_no_gpu(cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


@functools.cache
def _tell_no_gpu(device: str) -> None:
    logger.warning("MODEL.DEVICE %s: no GPU is available, using the CPU", device)


def _check_files(path: str, cfg: CfgNode, chain: tuple[str, ...] = ()) -> None:
    """Goes through a file and its bases, without building any value in them.

    Raises:
        UserError: one is missing, no yaml of KEY: VALUE pairs or based on itself, or has a value where keys belong.
    """
    shown = f": {BASE} ".join((*chain, path))
    if os.path.abspath(path) in map(os.path.abspath, chain):
        raise UserError(f"{chain[0]}: {BASE} goes in a circle: {' -> '.join((*chain, path))}")
    try:
        with PathManager.open(path, "r", encoding="utf-8") as file:
            root = yaml.compose(file)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise UserError(f"{shown}: is no text in UTF-8, so no config ({_one_line(error)})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: {_one_line(error)}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{shown}: expected KEY: VALUE pairs")
    _check_nodes(root, cfg, shown)
    for base in _bases(root):
        base = os.path.expanduser(base)
        if "://" not in base:
            _check_files(os.path.join(os.path.dirname(path), base), cfg, (*chain, path))


def _check_nodes(found: yaml.MappingNode, expected: CfgNode, source: str, prefix: str = "") -> None:
    for name, value in found.value:
        key, known = f"{prefix}{name.value}", expected.get(name.value)
        if not isinstance(known, CfgNode):
            continue
        if not isinstance(value, yaml.MappingNode):
            given = value.value if isinstance(value, yaml.ScalarNode) else "a list"
            raise UserError(f"{source}: {key}: expected KEY: VALUE pairs below it, got {given or 'nothing'}")
        _check_nodes(value, known, source, f"{key}.")


def _bases(root: yaml.MappingNode) -> list[str]:
    given = [value for name, value in root.value if name.value == BASE]
    nodes = [node for value in given for node in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    return [node.value for node in nodes if isinstance(node, yaml.ScalarNode)]


def _merge(cfg: CfgNode, merge: Callable[[], None], source: str = "") -> None:
    try:
        merge()
    except (KeyError, AssertionError, ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(source + _explain(error, cfg)) from error
    except (TypeError, AttributeError) as error:  # what comes of a node that holds no KEY: VALUE pairs
        raise UserError(f"{source}expected KEY: VALUE pairs ({_explain(error, cfg)})") from error


def _with_lists(opts: Sequence[str]) -> list[Any]:
    """Lets DATASETS.REGISTER be given as one bare entry."""
    bare = [key == KEY and isinstance(opt, str) and opt[:1] not in ("[", "(") for key, opt in zip(["", *opts], opts)]
    return [[opt] if alone else opt for opt, alone in zip(opts, bare)]


def _explain(error: Exception, cfg: CfgNode) -> str:
    message = _one_line(error)
    unknown = UNKNOWN_KEY.search(message)
    if not unknown:
        return f"{message}; expected a list of {FORM}" if KEY in message and FORM not in message else message
    key, known = unknown.group(1), list(flat_keys(cfg))
    return f"unknown config key {key}{suggest(key, known)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())


def suggest(word: str, known: list[str]) -> str:
    """What to append to an error about `word`: "; did you mean ...?", or nothing where nothing is near."""
    misplaced = [k for k in known if "." in k and k.rpartition(".")[2] == word.rpartition(".")[2]]
    near = misplaced[:3] or difflib.get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
