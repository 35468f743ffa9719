"""The container job l2a: a zipped L1C product in a bucket becomes an L2A product and an item in the inbox."""

import json
import shutil
from pathlib import Path

import pytest

from aws_requests import Asked, recorded
from infra_templates import covered, granted, read_resources
from landpatch.catalog.scenes import optical_scene
from landpatch.functions.arrivals import arrivals
from landpatch.functions.handlers import l2a
from s3_server import serve_s3
from small_safe import Safe
from small_scenes import SmallScene
from stand_in_l2a_process import write_stand_in

BUCKET = "landpatch-l2a"


def test_from_a_zip_in_a_bucket_to_an_item_in_the_inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = Safe("1C", baseline="05.11").write(tmp_path / "in", SmallScene(nx=1, ny=1))
    archive = shutil.make_archive(str(tmp_path / product.stem), "zip", product.parent, product.name)
    monkeypatch.setenv("LANDPATCH_L2A_PROCESS", str(write_stand_in(tmp_path / "bin")))
    monkeypatch.setenv("LANDPATCH_L2A_PRODUCTS", f"s3://{BUCKET}/L2A")
    monkeypatch.setenv("LANDPATCH_INBOX", f"s3://{BUCKET}/inbox")
    with serve_s3(monkeypatch, BUCKET) as s3:
        s3.upload_file(archive, BUCKET, "L1C/product.SAFE.zip")
        asked: Asked = set()
        with recorded(asked):
            assert l2a.main([f"s3://{BUCKET}/L1C/product.SAFE.zip"]) == 0
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
        (inbox,) = [key for key in keys if key.startswith("inbox/")]
        (item,) = arrivals({"scenes": f"s3://{BUCKET}/{inbox}"}).items
        scene = optical_scene(item)
        assert len(scene.bands) == 12
        for asset in (*scene.bands.values(), scene.scl):
            assert asset is not None
            assert asset.href.removeprefix(f"s3://{BUCKET}/") in keys
        assert [key for key in keys if key.endswith("sen2cor.log")]
        assert "/tmp" not in json.dumps(item["assets"])
        assert l2a.main([f"s3://{BUCKET}/L1C/missing.zip"]) == 7
        assert l2a.main(["/etc/passwd"]) == 2

    names = {
        "AWS::Partition": "aws",
        "ProductsBucket.Arn": f"arn:aws:s3:::{BUCKET}",
        "InboxBucket": f"{BUCKET}/inbox",
    }
    may = granted(read_resources("l2a.yaml"), "JobRole", names, frozenset())
    assert not [one for one in asked if not covered(one, may)]
    unused = {one for one in may if not any(covered(ask, {one}) for ask in asked)}
    assert {action for action, _ in unused} == {"s3:AbortMultipartUpload"}  # where a large upload breaks off
