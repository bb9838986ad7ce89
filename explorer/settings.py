"""Every EXPLORER_* environment variable, in one place; an empty value means the default. Loads no torch."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator sets. A field `jobs_nice` is read from EXPLORER_JOBS_NICE."""

    model_config = SettingsConfigDict(env_prefix="EXPLORER_", env_ignore_empty=True, extra="ignore", frozen=True)

    data: Path = Field(Path("data"), description="folder for what the page writes: jobs, masks, uploads")
    runs: Path = Field(Path("runs"), description="folder for checkpoints of training and of `precompute`")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="more models on the page, comma separated: folders of diffusers pipelines, or names on the hub"
    )
    device: str = Field(
        "", max_length=40, description="torch device; empty: a GPU where PyTorch finds one, else the CPU"
    )
    scheduler: str = Field(
        "", description="address of a Dask scheduler, tls://host:8786; empty: jobs run on this machine"
    )
    password: str = Field("", description="needed to start jobs, upload and delete; empty: everybody may")
    hf_login: bool = Field(
        False, description="on a Space: visitors log in with Hugging Face, and their account owns their jobs and files"
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names by which the page may be reached, comma separated; empty: localhost, or any elsewhere"
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="networks whose X-Forwarded-For is believed, comma separated; *: any, which holds on a Space"
    )
    rate_limit_per_minute: int = Field(30, ge=1, description="changes that one address may make per minute")
    pictures_per_address: int = Field(
        8, ge=2, description="pictures that one address may have under way or waiting; raise it for a classroom"
    )
    requests_per_address: int = Field(64, ge=8, description="requests of one address that are not answered yet")
    keep_days: float = Field(30, gt=0, description="days after which ended jobs and uploaded masks are deleted")
    jobs_max_concurrent: int = Field(1, ge=1, description="jobs that run at the same time")
    jobs_max_per_user: int = Field(3, ge=1, description="unfinished jobs per visitor")
    jobs_max_per_address: int = Field(3, ge=1, description="unfinished jobs of one address; raise it for a classroom")
    jobs_max_total: int = Field(30, ge=1, description="unfinished jobs of all visitors together")
    jobs_max_minutes: float = Field(120, gt=0, description="minutes that one attempt at a job may take")
    jobs_workers: int = Field(1, ge=1, le=256, description="workers that share one job")
    jobs_nice: int = Field(10, ge=0, le=19, description="niceness of job processes, so that pictures come first")

    @field_validator("hosts", "models", "proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(one.strip() for one in value.split(",") if one.strip()) if isinstance(value, str) else value

    @field_validator("proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for one in proxies:
            if one != "*":
                ip_network(one, strict=False)  # raises ValueError for what is none
        return proxies


def settings() -> Settings:
    """Read the environment as it is now. Raises pydantic.ValidationError for a value that is out of range."""
    return Settings()
