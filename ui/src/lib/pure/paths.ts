// Paths of this computer, as far as a form can judge them.

export function isWhole(path: string): boolean {
  return path.startsWith("/") || /^[A-Za-z]:[\\/]/.test(path);
}

/** The last part of a path. */
export function base(path: string): string {
  return path.replace(/[\\/]+$/, "").split(/[\\/]/).pop() ?? path;
}

/** A path below another. */
export function below(folder: string, name: string): string {
  const mark = folder.includes("\\") && !folder.includes("/") ? "\\" : "/";
  return `${folder.replace(/[\\/]+$/, "")}${mark}${name}`;
}

/** The registry that an image's name leads to: its first part, where that looks like a host; else Docker Hub. */
export function registryOf(image: string): string {
  const first = image.split("/")[0] ?? "";
  return image.includes("/") && (/[.:]/.test(first) || first === "localhost") ? first : "docker.io";
}
