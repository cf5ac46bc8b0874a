// An address that is none of ours.
import { h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { emptyState, pageHead } from "../lib/widgets.js";

export default function missing(root) {
  root.append(pageHead(t("missing.title")), emptyState("search", t("missing.lead"), t("missing.text"), h("a.button.primary", { href: "/" }, t("nav.upload")), h("a.button", { href: "/jobs" }, t("nav.jobs"))));
  return t("missing.title");
}
