"""Every error that landpatch raises on purpose.

An error says what is wrong, with which scene, patch or file, and what to do. Two class attributes say what
happens next: ``retryable`` (the block becomes FAILED and may be tried again, or INVALID and never is) and
``exit_code`` (what the command line ends with).
"""

from typing import ClassVar


class LandpatchError(Exception):
    """Base of all errors of landpatch."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


class InvalidName(LandpatchError, ValueError):
    """A tile, scene, patch or Sentinel-1 name is not of the form that it should have."""

    exit_code = 2


class InvalidParameter(LandpatchError, ValueError):
    """Parameters contradict each other, or a file given as a parameter is not of the right form."""

    exit_code = 2


class Incomplete(LandpatchError):
    """Some blocks did not succeed; everything else was kept."""

    exit_code = 3
    retryable = True


class InvalidItem(LandpatchError):
    """A STAC item or SAFE folder lacks what is needed to read its scene."""

    exit_code = 4


class InvalidScene(LandpatchError):
    """The pixels disagree with the patch grid or with their own metadata."""

    exit_code = 4


class UnreadableAsset(LandpatchError):
    """A file of a scene could not be read: missing, truncated, corrupt or unreachable."""

    exit_code = 5
    retryable = True


class InvalidSource(LandpatchError):
    """A published dataset that is to be imported is not of the published form: its tables, files or archives."""

    exit_code = 5


class InvalidLabels(LandpatchError):
    """A label source or a nomenclature cannot be used."""

    exit_code = 6


class StorageError(LandpatchError):
    """The dataset's storage refused a read or a write: permission, disk full, network."""

    exit_code = 7
    retryable = True


class DatasetConflict(LandpatchError):
    """What is asked contradicts what the dataset already holds."""

    exit_code = 8


class InvalidDataset(LandpatchError):
    """A dataset on storage is damaged or is not one of landpatch's."""

    exit_code = 9


class SourceError(LandpatchError):
    """A catalogue of scenes did not answer, or not truthfully."""

    exit_code = 10
    retryable = True


class NothingFound(LandpatchError):
    """A search was answered, and nothing of what was found can be taken."""

    exit_code = 11


class MissingProgram(LandpatchError):
    """A program that landpatch runs but cannot ship is not on this machine."""

    exit_code = 20


class ProcessingFailed(LandpatchError):
    """A program that landpatch ran did not succeed, or left something else than it should have."""

    exit_code = 21
    retryable = True


class ProcessingTimeout(ProcessingFailed):
    """A program that landpatch ran took longer than it may."""

    exit_code = 22


class MissingComponent(LandpatchError):
    """Something that only this work needs, such as an optional package, is not installed or could not be got."""

    exit_code = 12


class CloudError(LandpatchError):
    """A service of the cloud did not do what it was asked for."""

    exit_code = 13
    retryable = True
