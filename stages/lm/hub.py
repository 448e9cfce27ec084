"""Models on the hub, through its library's own cache, at a commit that is known before any work."""

from dataclasses import dataclass
from pathlib import Path

from stages.contracts import UserError

# What a model is made of: weights in one format, settings, tokenizer.
FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py")
OTHERS = ("consolidated*", "original/*", "onnx/*")  # the same weights again
PICKLED = "pytorch_model*.bin"  # only of those that have no safetensors


@dataclass(frozen=True)
class HubModel:
    """A model on the hub and the branch, tag or commit that is asked for (None: its main one)."""

    name: str
    revision: str | None = None

    def commit(self) -> str:
        """What the revision names now; without the hub, what it named when it was last asked.

        Raises:
            UserError: the hub cannot be asked and the cache knows nothing, or there is no such one.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.constants import is_offline_mode
        from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError

        try:
            found = HfApi().resolve_revision(
                self.name, revision=self.revision, local_files_only=is_offline_mode()
            )
        except (OSError, ValueError, HfHubHTTPError, RevisionResolutionError) as error:
            raise self._unreachable(error) from None
        return str(found.resolved)

    def fetch(self) -> Path:
        """The folder of its files in the cache, which a complete one serves without the hub.

        Raises:
            UserError: what is not in the cache cannot be fetched.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        commit = self.commit()
        try:
            folder = Path(
                snapshot_download(
                    self.name,
                    revision=commit,
                    allow_patterns=list(FILES),
                    ignore_patterns=list(OTHERS),
                )
            )
            if not any(folder.glob("*.safetensors")):
                snapshot_download(self.name, revision=commit, allow_patterns=[PICKLED])
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise self._unreachable(error) from None
        return folder

    def _unreachable(self, error: Exception) -> UserError:
        said = str(error).strip().splitlines() or [""]
        revision = f" at {self.revision}" if self.revision else ""
        return UserError(
            f"the model {self.name}{revision} is neither on the hub nor in its cache",
            got=f"{type(error).__name__}: {said[0]}",
            do="check base.path and base.revision, the network (HF_HUB_OFFLINE) and, where access "
            "is gated, the login; or download it elsewhere and give its folder",
        )
