// In place of STAC Browser's own file: which basemaps there are is said when it runs, in config.js.
export default function configureBasemap() {
  return (window.STAC_BROWSER_CONFIG || {}).basemaps || [];
}
