"""`molmo serve`: a model behind HTTP."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo.cli.options import Adapter, Choices, Device, Dtype, Quantize, given
from olmo.cli.session import chosen_model, load_model
from olmo.cli.video_options import VideoChoices
from olmo.config import apply_overrides, read_config_file
from olmo.exceptions import OLMoConfigurationError
from olmo.models.feature_cache import FeatureCache
from olmo.serve.serve_config import ServeConfig


def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Folder or hub id; without it, the bundled one.", show_default=False),
    ] = None,
    limits: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Limits and the like: max_rows=8.")
    ] = None,
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file of such limits.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; by default 127.0.0.1, which only this machine reaches.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at, 8000 by default; 0 takes a free one.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; by default the name of its folder.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable that holds the API key.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File that holds the API key.")] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Let anybody ask who reaches a host other than this machine.")
    ] = False,
    for_video: Annotated[bool, typer.Option("--video", help="Take videos too, where the model is a Molmo.")] = False,
    adapter: Adapter = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Answer over HTTP, in the OpenAI chat protocol."""
    if model is not None and "=" in model and not Path(model).exists():
        limits = [model, *(limits or ())]
        model = None
    choices = Choices(model=model, adapter=adapter, device=device, dtype=dtype, quantize=quantize)
    values = {} if config is None else read_config_file(config)
    named = given(host=host, port=port, model_name=name)
    values = {"model_name": _plain_name(chosen_model(choices)), **apply_overrides(values, limits or ()), **named}
    settings = ServeConfig.from_dict(values)
    server_class, key = _server_class(), _key(api_key_env, api_key_file)
    if key is None and not settings.is_local and not without_key:
        raise OLMoConfigurationError(
            f"other machines can reach {settings.host}; give --api-key-env or --api-key-file, or --without-key where "
            "something in front of the server decides who may ask"
        )
    loaded = load_model(choices, VideoChoices() if for_video else None)
    loaded.feature_cache = FeatureCache()
    server_class(loaded, settings, key, lambda at: _announce(settings, at)).run()


def _server_class() -> Any:
    try:
        return importlib.import_module("olmo.serve.server").Server
    except ModuleNotFoundError as error:
        raise OLMoConfigurationError(f"serving needs {error.name}: pip install 'molmo[serve]'") from None


def _key(variable: str | None, file: Path | None) -> str | None:
    """The API key, from where the user says it is; None where the user says nothing."""
    if variable is None and file is None:
        return None
    if variable is not None and file is not None:
        raise typer.BadParameter("give one of them", param_hint="--api-key-env, --api-key-file")
    access = importlib.import_module("olmo.serve.access")
    if variable is None:
        return str(access.read_key(file))
    if variable not in os.environ:
        raise OLMoConfigurationError(f"--api-key-env {variable}: there is no such environment variable")
    return str(access.checked_key(os.environ.pop(variable), f"the variable {variable}"))


def _plain_name(model: str) -> str:
    """What a model is called without telling where it lies."""
    return Path(model).name or model


def _announce(settings: ServeConfig, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"{settings.model_name} answers at http://{host}:{port}/v1 (Ctrl-C stops)")
    if settings.page:
        typer.echo(f"Its page is at http://{host}:{port}/")
