// Which running container is on which network, laid out so that few lines cross.
import type { Container, Network } from "../docker/client";
import { isRunning, name } from "./containers";

export interface Topology {
  networks: Network[];
  containers: Container[];
  /** Places in the two lists above, and the container's address there. */
  links: { network: number; container: number; address: string }[];
}

const names = (container: Container) => Object.keys(container.NetworkSettings?.Networks ?? {});

/** Networks with somebody on them by name; containers beside what they are on. */
export function topology(networks: Network[], containers: Container[]): Topology {
  const running = containers.filter((c) => isRunning(c) && names(c).length > 0);
  const used = new Set(running.flatMap(names));
  const shown = networks.filter((n) => used.has(n.Name ?? "")).toSorted((a, b) => (a.Name ?? "").localeCompare(b.Name ?? ""));
  const place = new Map(shown.map((n, i) => [n.Name ?? "", i]));
  const middle = (container: Container) => {
    const places = names(container).flatMap((n) => place.get(n) ?? []);
    return places.length ? places.reduce((sum, i) => sum + i, 0) / places.length : shown.length;
  };
  const ordered = running.toSorted((a, b) => middle(a) - middle(b) || name(a).localeCompare(name(b)));
  const links = ordered.flatMap((c, container) =>
    Object.entries(c.NetworkSettings?.Networks ?? {}).flatMap(([n, at]) => {
      const network = place.get(n);
      return network === undefined ? [] : [{ network, container, address: at?.IPAddress ?? "" }];
    }),
  );
  return { networks: shown, containers: ordered, links };
}
