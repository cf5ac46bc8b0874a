// Gates with their services and routes, and registries with their instances.
import { table } from "../lib/board.js";
import { h } from "../lib/dom.js";
import { bytes, number } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { emptyState, timeAgo } from "../lib/widgets.js";
import { health, uptime } from "./status.js";

const GOOD = new Set(["up", "UP", "healthy", "ok"]);

function figure(label, value) {
  return h("div.figure", h("span.figure-value.num", value), h("span.figure-label.muted", label));
}

function connections(all) {
  if (typeof all !== "object" || all === null) return count(all);
  const open = (all.listeners ?? []).reduce((sum, listener) => sum + (listener.open ?? 0), 0);
  return count(all.active ?? open);
}

function size(value) {
  return typeof value === "number" ? bytes(value) : "–";
}

function count(value) {
  return typeof value === "number" ? number(value) : "–";
}

/** The gates: figures, backends of each service, routes. */
export function gatesPart({ gates = [] }) {
  if (gates.length === 0) return emptyState("gate", t("gates.none"), "");
  return gates.map((gate) =>
    h(
      "div.card.gate",
      h("div.gate-head", health(gate.ok !== false, gate.ok === false ? t("gates.unreachable") : t("gates.ok")), h("code.gate-url", gate.url ?? ""), gate.version && h("span.muted.num", gate.version), gate.draining && h("span.tag", t("health.draining"))),
      gate.error && h("p.problem", gate.error),
      gate.ok !== false && [
        h("div.figures", figure(t("gates.uptime"), uptime(gate.uptime)), figure(t("gates.requests"), count(gate.requests)), figure(t("gates.connections"), connections(gate.connections)), figure(t("gates.sockets"), count(gate.connections?.tunnels)), figure(t("gates.received"), size(gate.bytesReceived)), figure(t("gates.sent"), size(gate.bytesSent))),
        (gate.services ?? []).map((service) => h("div.service", h("h3", service.name), backends(service))),
        gate.routes?.length > 0 && routes(gate.routes),
      ],
    ),
  );
}

function backends({ name, backends: all = [] }) {
  if (all.length === 0) return h("p.muted", t("gates.no_backends"));
  return table(
    t("gates.backends_of", { name }),
    [t("gates.backend"), t("gates.state"), t("gates.in_flight"), t("gates.requests"), t("gates.failures")],
    all.map((backend) => [h("code", backend.address), h("span", { title: backend.why ?? "" }, health(GOOD.has(backend.state), backend.state ?? "–")), h("span.num", count(backend.inFlight)), h("span.num", count(backend.requests)), h("span.num", count(backend.failures))]),
  );
}

function routes(all) {
  return h(
    "details.routes",
    h("summary", t("gates.routes_show", { n: all.length })),
    table(
      t("gates.routes"),
      [t("gates.route"), t("gates.listener"), t("gates.path"), t("gates.service"), t("gates.where"), t("gates.requests")],
      all.map((route) => [h("code", route.name ?? "–"), (route.listeners ?? []).join(", ") || "–", h("code", route.path ?? "/"), h("code", route.service ?? "–"), route.where ? h("code", route.where) : "–", h("span.num", count(route.requests))]),
    ),
  );
}

/** The registries: each application's instances. */
export function registryPart({ registries = [] }) {
  if (registries.length === 0) return emptyState("jobs", t("registry.none"), "");
  return registries.map((registry) =>
    h(
      "div.card.gate",
      h("div.gate-head", health(registry.ok !== false, registry.ok === false ? t("gates.unreachable") : t("gates.ok")), h("code.gate-url", registry.url ?? "")),
      registry.error && h("p.problem", registry.error),
      (registry.applications ?? []).map((application) => h("div.service", h("h3", application.name), instances(application))),
    ),
  );
}

function instances({ name, instances: all = [] }) {
  return table(
    t("registry.instances_of", { name }),
    [t("registry.instance"), t("registry.address"), t("gates.state"), t("registry.metadata"), t("registry.renewed")],
    all.map((instance) => [
      h("code", instance.instanceId),
      h("code", instance.address ?? "–"),
      health(GOOD.has(instance.status), instance.status ?? "–"),
      h("span.metadata", Object.entries(instance.metadata ?? {}).map(([key, value]) => h("span.tag", `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`))),
      timeAgo(instance.lastRenewal),
    ]),
  );
}
