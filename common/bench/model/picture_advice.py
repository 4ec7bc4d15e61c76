"""What a report must be read with because of its pictures."""

from .report import BackendReport


def of_a_picture(backend: BackendReport) -> list[str]:
    """Say that a picture failed, or went unchecked although the report checks pictures."""
    if backend.wrong:
        return [
            f"{backend.label}: its picture failed ({backend.wrong}), so its times are not those of "
            "this work and no ratio is made of them: look at its pictures with `sdxs image`, and "
            "mend them or take another setting"
        ]
    if backend.frames and backend.picture and not backend.picture.flicker_levels:
        return [f"{backend.label}: too few fresh frames to tell flicker: more --rounds"]
    return []
