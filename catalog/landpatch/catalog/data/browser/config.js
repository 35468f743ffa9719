// Read by STAC Browser when it starts. All addresses are relative to this page: nothing is asked of other hosts.
(function () {
  // The CRS of patches: any zone of UTM on WGS 84. STAC Browser would ask epsg.io for those that it does not know.
  const crs = {};
  for (let zone = 1; zone <= 60; zone++) {
    const code = String(zone).padStart(2, "0");
    crs[`EPSG:326${code}`] = `+proj=utm +zone=${zone} +datum=WGS84 +units=m +no_defs`;
    crs[`EPSG:327${code}`] = `+proj=utm +zone=${zone} +south +datum=WGS84 +units=m +no_defs`;
  }

  // Pictures lie where the patch lies in its own CRS; STAC Browser would fill the box around it in degrees.
  function getMapSourceOptions(type, options, reference) {
    const item = reference.getContext();
    if (options.imageExtent && item && item.isItem()) {
      const asset = item.getAssets().find(other => other["proj:transform"] && other["proj:shape"]);
      if (asset && options.projection && options.projection !== "EPSG:4326") {
        const [width, , left, , height, top] = asset["proj:transform"];
        const [rows, columns] = asset["proj:shape"];
        options.imageExtent = [left, top + rows * height, left + columns * width, top];
        options.interpolate = false;
      }
    }
    return options;
  }

  window.STAC_BROWSER_CONFIG = Object.assign({
    catalogUrl: new URL("..", location.href.split("#")[0]).href,
    allowExternalAccess: false,
    historyMode: "hash",
    crs,
    getMapSourceOptions,
    defaultThumbnailSize: [240, 240],
    socialSharing: [],
    basemaps: [],
  }, {} /* settings */);
})();
