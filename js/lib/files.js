// Files of ComfyUI's temp folder: pictures and planes of true values.
import { api } from "../../../scripts/api.js";
import { Plane } from "./half.js";

/** @typedef {{filename: string, subfolder: string, type: string, width: number, height: number, scale?: number}} FileEntry */

export const GONE =
  "This result is no longer on the server: temporary files are cleared when ComfyUI restarts. Run the workflow again.";

/** @param {FileEntry} file */
export function address(file) {
  const { filename, subfolder, type } = file;
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

/** @param {FileEntry} file @returns {Promise<Plane>} */
export async function loadPlane(file) {
  const answer = await api.fetchApi(address(file));
  if (!answer.ok) throw new Error(GONE);
  return new Plane(await answer.arrayBuffer(), file.width, file.height, file.scale ?? 1);
}

/** Load a picture into an image element. @param {HTMLImageElement} image @param {FileEntry} file @returns {Promise<void>} */
export function loadPicture(image, file) {
  const source = api.apiURL(address(file));
  if (image.getAttribute("src") === source && image.complete && image.naturalWidth) return Promise.resolve();
  return new Promise((resolve, reject) => {
    image.onload = () => resolve();
    image.onerror = () => {
      image.removeAttribute("src");
      reject(new Error(GONE));
    };
    image.src = source;
  });
}
