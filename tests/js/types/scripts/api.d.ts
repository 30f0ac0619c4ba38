// The part of ComfyUI's front end that the widgets use; served there as /scripts/api.js.
export const api: {
  apiURL(path: string): string;
  fetchApi(path: string): Promise<Response>;
  addEventListener(name: string, listener: (event: CustomEvent<any>) => void): void;
};
