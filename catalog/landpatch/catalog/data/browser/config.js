// Read by STAC Browser when it starts. All addresses are relative to this page: nothing is asked of other hosts.
(function () {
  const api = new URL("..", location.href.split("#")[0]).href;

  // The CRS of patches: any zone of UTM on WGS 84. STAC Browser would ask epsg.io for those that it does not know.
  const crs = {};
  for (let zone = 1; zone <= 60; zone++) {
    const code = String(zone).padStart(2, "0");
    crs[`EPSG:326${code}`] = `+proj=utm +zone=${zone} +datum=WGS84 +units=m +no_defs`;
    crs[`EPSG:327${code}`] = `+proj=utm +zone=${zone} +south +datum=WGS84 +units=m +no_defs`;
  }

  // How a file is shown on the map. STAC Browser stretches over all values of the data type, which leaves reflectance
  // nearly black; what it cannot draw itself (decibels as colours, codes in their colours) is drawn by the server.
  const stretched = {
    S2_10m: { bands: [3, 2, 1], minimum: 0, maximum: 2000 },
    S2_20m: { bands: [6, 4, 1], minimum: 0, maximum: 4000 }, // B12, B8A, B05
    S2_60m: { bands: [1], minimum: 0, maximum: 2000 },
  };
  const drawn = { S1: "s1_composite", reference_map: "reference_map" };

  async function getMapSourceOptions(type, options, reference) {
    const item = reference.getContext();
    if (!item || !item.isItem()) {
      return options;
    }
    const key = reference.isAsset() ? reference.getKey() : null;
    if (options.sources && stretched[key]) {
      options.sources[0].bands = stretched[key].bands;
      options.interpolate = false;
    } else if (options.sources && drawn[key]) {
      const place = [item.collection, item.id].map(encodeURIComponent).join("/");
      const response = await fetch(`${api}previews/${place}/${drawn[key]}.tif`);
      if (response.ok) {
        options.sources = [{ blob: await response.blob(), bands: [1, 2, 3], min: 0, max: 255 }];
        options.interpolate = false;
      }
    } else if (options.imageExtent) {
      // A picture lies where the patch lies in its own CRS; STAC Browser would fill the box around it in degrees.
      const asset = item.getAssets().find(other => other["proj:transform"] && other["proj:shape"]);
      const code = item.getMetadata("proj:code");
      if (asset && crs[code]) {
        const [width, , left, , height, top] = asset["proj:transform"];
        const [rows, columns] = asset["proj:shape"];
        options.projection = code;
        options.imageExtent = [left, top + rows * height, left + columns * width, top];
        options.interpolate = false;
      }
    }
    return options;
  }

  // The pictures that the server draws, beside the files: what a card and the tab "Thumbnails" show.
  const pictures = {
    true_colour: ["S2_10m", "True colour"],
    false_colour: ["S2_10m", "False colour"],
    s1_composite: ["S1", "Sentinel-1 composite"],
    reference_map: ["reference_map", "Reference map"],
  };

  // STAC Browser may ask for the same document more than once.
  function preprocessSTAC(stac) {
    if (stac.isItem() && stac.collection) {
      const place = [stac.collection, stac.id].map(encodeURIComponent).join("/");
      // On the cards of search results; there is no room for the longest names.
      const words = [stac.properties["landpatch:split"], ...(stac.properties["landpatch:labels"] || [])];
      stac.properties.keywords = words.map(word => (word.length > 40 ? `${word.slice(0, 38).trim()}…` : word));
      for (const [key, { minimum, maximum }] of Object.entries(stretched)) {
        if (stac.assets[key]) {
          // For drawing, not for reading: what is not enumerable is not among the asset's metadata.
          const statistics = { value: { minimum, maximum }, enumerable: false, configurable: true };
          Object.defineProperty(stac.assets[key], "statistics", statistics);
        }
      }
      for (const [name, [source, title]] of Object.entries(pictures)) {
        const asset = stac.assets[source];
        if (asset && !(name === "true_colour" && stac.assets.thumbnail)) {
          const roles = name === "true_colour" ? ["thumbnail", "overview"] : ["overview"];
          const picture = { href: `${api}previews/${place}/${name}.png`, type: "image/png", title, roles };
          stac.assets[`preview_${name}`] = new asset.constructor(picture, `preview_${name}`, stac);
        }
      }
      if (stac.assets.reference_map) {
        addLegend(stac, place);
      }
    } else if (stac.isCollection() && stac["landpatch:nomenclature"]) {
      addLegend(stac, encodeURIComponent(stac.id));
    }
    return stac;
  }

  function addLegend(stac, place) {
    const href = `${api}previews/${place}/legend.svg`;
    if (!stac.links.some(link => link.href === href)) {
      const legend = { rel: "about", type: "image/svg+xml", title: "Legend of the reference map", href };
      stac.links.push(new stac.links[0].constructor(legend, stac));
    }
  }

  window.STAC_BROWSER_CONFIG = Object.assign({
    catalogUrl: api,
    allowExternalAccess: false,
    historyMode: "hash",
    crs,
    getMapSourceOptions,
    preprocessSTAC,
    defaultThumbnailSize: [240, 240],
    maxEntriesPerPage: 100,
    showKeywordsInItemCards: true,
    socialSharing: [],
    basemaps: [],
  }, {} /* settings */);
})();
