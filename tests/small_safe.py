"""Small SAFE products, after ESA's product specification: trees of folders with real XML and small band files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from small_scenes import RESOLUTIONS, SmallScene, write_raster

PASSED = {"SENSOR_QUALITY": "PASSED", "GEOMETRIC_QUALITY": "PASSED", "GENERAL_QUALITY": "PASSED",
          "FORMAT_CORRECTNESS": "PASSED", "RADIOMETRIC_QUALITY": "PASSED"}  # fmt: skip
SENSED = "2017-06-13T10:13:22.456Z"


@dataclass
class Safe:
    """One product. ``offsets`` by band number (None: no list, as before 04.00); ``flags``: PSD 12's way to say it."""

    level: str = "2A"
    baseline: str = "05.11"
    offsets: Mapping[int, str] | None = field(default_factory=lambda: dict.fromkeys(range(13), "-1000"))
    quality: Mapping[str, str] = field(default_factory=lambda: dict(PASSED))
    flags: bool = False
    uri_element: str = "PRODUCT_URI"
    product: str | None = None

    @property
    def uri(self) -> str:
        number = self.baseline.replace(".", "")
        return self.product or f"S2A_MSIL{self.level}_20170613T101031_N{number}_R022_T33UUP_20240830T134009.SAFE"

    def product_xml(self) -> str:
        name, kind = ("BOA_ADD_OFFSET", "BOA") if self.level == "2A" else ("RADIO_ADD_OFFSET", "Radiometric")
        offsets = ""
        if self.offsets is not None:
            rows = "".join(f'<{name} band_id="{band}">{text}</{name}>' for band, text in self.offsets.items())
            listing = "BOA_ADD_OFFSET_VALUES_LIST" if self.level == "2A" else "Radiometric_Offset_List"
            offsets = f"<{listing}>{rows}</{listing}>"
        checks = "".join(
            f"<{check}_FLAG>{verdict}</{check}_FLAG>"
            if self.flags
            else f'<quality_check checkType="{check}">{verdict}</quality_check>'
            for check, verdict in self.quality.items()
        )
        return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{self.level}_User_Product
    xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{self.level}.xsd"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2017-06-13T10:10:31.026Z</PRODUCT_START_TIME>
      <{self.uri_element}>{self.uri}</{self.uri_element}>
      <PROCESSING_LEVEL>Level-{self.level}</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>{self.baseline}</PROCESSING_BASELINE>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT></Special_Values>
      <QUANTIFICATION_VALUES_LIST><{kind}_QUANTIFICATION_VALUE unit="none">10000</{kind}_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      {offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>4.2</Cloud_Coverage_Assessment>
    <Quality_Control_Checks><Quality_Inspections>{checks}</Quality_Inspections></Quality_Control_Checks>
  </n1:Quality_Indicators_Info>
</n1:Level-{self.level}_User_Product>
"""

    def granule_xml(self) -> str:
        return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{self.level}_Tile_ID
    xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-{self.level}_Tile_Metadata.xsd">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">S2A_OPER_MSI_L{self.level}_TL_2APS_20240106T205550_A010315_T33UUP</TILE_ID>
    <SENSING_TIME metadataLevel="Standard">{SENSED}</SENSING_TIME>
  </n1:General_Info>
</n1:Level-{self.level}_Tile_ID>
"""

    def write(self, folder: Path, scene: SmallScene | None = None, driver: str = "JP2OpenJPEG") -> Path:
        """The folder tree; without ``scene`` the band files are empty."""
        root = folder / self.uri
        granule = root / f"GRANULE/L{self.level}_T33UUP_A010315_20170613T101322"
        (root / "DATASTRIP/DS_2APS").mkdir(parents=True)
        images = granule / "IMG_DATA"
        images.mkdir(parents=True)
        (root / f"MTD_MSIL{self.level}.xml").write_text(self.product_xml())
        (root / "DATASTRIP/DS_2APS/MTD_DS.xml").write_text("<n1/>")
        (granule / "MTD_TL.xml").write_text(self.granule_xml())
        ending = "jp2" if driver == "JP2OpenJPEG" else "tif"
        for name, native in {**RESOLUTIONS, "SCL": 20, "B10": 60, "TCI": 10, "AOT": 20}.items():
            stem = f"T33UUP_20170613T101031_{name}"
            if self.level == "1C":
                if name in ("SCL", "AOT"):
                    continue
                places = {native: images / f"{stem}.{ending}"}
            elif name == "B10":
                continue
            else:
                coarser = [resolution for resolution in (10, 20, 60) if resolution >= native]
                places = {r: images / f"R{r}m/{stem}_{r}m.{ending}" for r in coarser}
            for resolution, path in places.items():
                path.parent.mkdir(exist_ok=True)
                pixels = None if scene is None else scene.scl if name == "SCL" else scene.bands.get(name)
                if pixels is None or scene is None or resolution != native:
                    path.write_bytes(b"")
                else:
                    write_raster(path, pixels, scene.transform(native), driver=driver)
        return root


def read_patches(folder: Path, scene: SmallScene) -> dict[str, np.ndarray]:
    """Every band of the patches of a small scene, by band: (ny, nx, pixels, pixels)."""
    # Here: the stand-in for sen2cor imports this module too, and is started often.
    from landpatch.catalog.bands import OPTICAL_ASSETS
    from landpatch.catalog.grid import TileGrid
    from landpatch.catalog.scenes import optical_scene
    from landpatch.functions.optical import OpticalReader
    from landpatch.functions.sources import read_scene

    planes = {}
    with OpticalReader(optical_scene(read_scene(str(folder))), TileGrid.from_tile("33UUP")) as reader:
        for asset in OPTICAL_ASSETS:
            out = np.empty((scene.ny, 91, len(asset.planes), asset.pixels, asset.pixels), np.uint16)
            empty = reader.cut(range(scene.y0, scene.y0 + scene.ny), asset, out)
            assert (empty == 0).sum() == scene.nx * scene.ny
            for plane, name in enumerate(asset.planes):
                planes[name] = out[:, scene.x0 : scene.x0 + scene.nx, plane]
        reader.verify_offset()
    return planes
