"""An audit in words, for a screen."""

from collections.abc import Iterator

from landpatch.catalog.auditing.auditor import Audit
from landpatch.catalog.auditing.findings import Severity
from landpatch.catalog.leakage import Relation
from landpatch.catalog.splits import SPLITS

_SHOWN = 3  # of each kind; the JSON and the page have more


def lines(audit: Audit) -> Iterator[str]:
    """What a person wants to know, most important last: a screen shows its end."""
    found, checked = audit.leakage, audit.checked
    counts = ", ".join(f"{split} {found.patches[split.value]:,}" for split in SPLITS)
    yield (
        f"{len(audit.patches):,} patches of {len(audit.patches.scenes):,} scenes in {len(audit.patches.tiles):,} "
        f"tiles: {counts}" + (f", none {found.unsplit:,}" if found.unsplit else "")
    )
    if audit.rule != "recorded":
        yield f"split by the rule of {audit.rule}, not by what the source says"
    if checked.files or checked.elsewhere or checked.without_files:
        yield (
            f"{checked.files:,} files looked for, {checked.read:,} read and decoded ({checked.bytes / 1e6:,.1f} MB)"
            + (f", {checked.remembered:,} of them before an interruption" if checked.remembered else "")
            + (f"; {checked.elsewhere:,} lie elsewhere" if checked.elsewhere else "")
            + (f"; {checked.without_files:,} patches have no files" if checked.without_files else "")
        )
    for relation in found.relations:
        yield from _relation(relation)
    same = found.same_ground
    yield (
        f"same ground: {same.several_dates:,} patches at several dates ({same.dates_across_splits:,} in several "
        f"splits), {same.two_tiles:,} share ground with another tile "
        f"({same.tiles_across_splits:,} with another split; "
        f"{same.square_km_across_splits:,.1f} of {same.square_km:,.1f} km2)"
    )
    for buffer in found.buffers:
        out = ", ".join(f"{split} {count:,}" for split, count in buffer.left_out.items())
        yield f"a buffer of {buffer.metres / 1000:g} km would leave out {buffer.share:.1%} of all patches: {out}"
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        divergence = audit.labels.divergence(one, other)
        if divergence is not None:
            yield f"labels of {one} and {other}: Jensen-Shannon divergence {divergence:.4f} bits"
    yield from _findings(audit)


def _relation(relation: Relation) -> Iterator[str]:
    def share(count: int) -> str:
        return f"{100 * count / relation.patches:.2f} %"

    if not relation.patches:
        return
    within = ", ".join(
        f"{share(count)} within {metres / 1000:g} km" for metres, count in relation.within.items() if metres
    )
    yield (
        f"{relation.of} beside {relation.to}: {share(relation.within[0.0])} touch "
        f"(overlap {share(relation.overlap)}, edge {share(relation.edge)}, corner only {share(relation.corner)}); "
        f"an edge within one scene {share(relation.edge_same_scene)}; {within}"
    )
    if relation.nearest is not None:
        near = relation.nearest
        yield (
            f"  nearest centres {near.grid_metres / 1000:.3f} km apart on the grid, "
            f"{near.ground_metres / 1000:.3f} km on the ellipsoid: {near.patch} and {near.other}"
        )


def _findings(audit: Audit) -> Iterator[str]:
    shown: dict[tuple[str, str], int] = {}
    for severity in reversed(Severity):
        for finding in audit.findings.kept:
            if finding.severity is severity:
                key = (finding.severity, finding.kind)
                shown[key] = shown.get(key, 0) + 1
                if shown[key] <= _SHOWN:
                    yield str(finding)
        for (each, kind), count in sorted(audit.findings.counts.items()):
            if each is severity and count > _SHOWN:
                yield f"{each}: {kind}: {count - _SHOWN:,} more"
    if not audit.findings.counts:
        yield "nothing to find fault with"
