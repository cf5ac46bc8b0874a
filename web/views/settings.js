// A person's own settings: password and tokens; for administrators also the people.
import { apiPath, explain } from "../lib/api.js";
import { table } from "../lib/board.js";
import { fill, h, setText } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { attempt, button, confirm, copyButton, emptyState, errorState, pageHead, skeleton, timeAgo, toast } from "../lib/widgets.js";

export default function settings(root, context) {
  root.append(pageHead(t("settings.title")), passwordPart(context), tokensPart(context), context.me.admin ? usersPart(context) : "");
  return t("settings.title");
}

function section(title, text, ...children) {
  return h("section.settings-part", h("div.settings-about", h("h2", title), h("p.muted", text)), h("div.settings-body", children));
}

function field(id, label, input) {
  input.id = id;
  return h("div.field", h("label", { for: id }, label), input);
}

// A form that says its own failure beside its button.
function form(fields, label, send) {
  const problem = h("p.problem", { role: "alert" });
  const submit = h("button.button.primary", { type: "submit" }, label);
  return h("form.form.card", { on: { submit: async (event) => {
    event.preventDefault();
    setText(problem, "");
    submit.disabled = true;
    try {
      await send(event.currentTarget ?? event.target);
    } catch (error) {
      setText(problem, explain(error));
    } finally {
      submit.disabled = false;
    }
  } } }, fields, problem, h("div.actions", submit));
}

function passwordPart({ api, me }) {
  const current = h("input", { type: "password", autocomplete: "current-password", required: true, maxlength: 1024 });
  const password = h("input", { type: "password", autocomplete: "new-password", required: true, minlength: 8, maxlength: 1024 });
  const currentField = field("current-password", t("password.current"), current);
  if (!me.password) currentField.hidden = true;
  current.required = me.password;
  const send = async (element) => {
    await api.put("/api/me/password", { ...(me.password ? { current: current.value } : {}), password: password.value }, { quiet: true });
    element.reset();
    me.password = true;
    currentField.hidden = false;
    current.required = true;
    toast(t("password.changed"));
  };
  return section(t("password.title"), me.password ? t("password.text") : t("password.first_text"), form([h("input.visually-hidden", { type: "text", autocomplete: "username", value: me.name, tabindex: "-1", "aria-hidden": "true", readonly: true }), currentField, field("new-password", t("password.new"), password)], me.password ? t("password.change") : t("password.set"), send));
}

// Shown once, in full, to be copied: the hub keeps only its hash.
function secret(title, text) {
  return h("div.secret", { role: "status" }, h("strong", title), h("div.secret-line", h("code", text), copyButton(text)));
}

function tokensPart({ api, signal }) {
  const list = h("div.settings-list", skeleton(2));
  const made = h("div");
  const load = async () => {
    try {
      const { tokens = [] } = (await api.get("/api/tokens", { signal })) ?? {};
      fill(list, tokens.length === 0 ? emptyState("key", t("tokens.none"), "") : table(t("tokens.title"), [t("tokens.name"), t("tokens.made"), t("tokens.expires"), t("tokens.used"), t("tokens.action")], tokens.map((token) => [h("strong", token.name), timeAgo(token.createdAt), token.expires ? h("time", { datetime: token.expires }, new Date(token.expires).toLocaleDateString(document.documentElement.lang)) : t("tokens.never"), token.lastUsed ? timeAgo(token.lastUsed) : t("tokens.unused"), button(t("tokens.revoke"), { name: "trash", on: () => revoke(token) })])));
    } catch (error) {
      if (!signal.aborted) fill(list, errorState(error, load));
    }
  };
  const revoke = async (token) => {
    const sure = await confirm({ title: t("tokens.revoke_title", { name: token.name }), text: t("tokens.revoke_text"), yes: t("tokens.revoke") });
    if (sure && (await attempt(() => api.delete(apiPath("tokens", token.id)), t("tokens.revoked")))) load();
  };
  const name = h("input", { required: true, maxlength: 100, autocomplete: "off", placeholder: t("tokens.name_example") });
  const expires = h("input", { type: "date", min: new Date(Date.now() + 86_400_000).toISOString().slice(0, 10) });
  const send = async (element) => {
    const body = { name: name.value, ...(expires.value ? { expires: new Date(`${expires.value}T23:59:59`).toISOString() } : {}) };
    const { token } = await api.post("/api/tokens", body);
    element.reset();
    fill(made, secret(t("tokens.shown_once"), token));
    load();
  };
  load();
  return section(t("tokens.title"), t("tokens.text"), made, list, form([h("div.field-row", field("token-name", t("tokens.name"), name), field("token-expires", t("tokens.expires_at"), expires))], t("tokens.make"), send));
}

function usersPart({ api, me, signal }) {
  const list = h("div.settings-list", skeleton(2));
  const made = h("div");
  const load = async () => {
    try {
      const { users = [] } = (await api.get("/api/users", { signal })) ?? {};
      fill(list, table(t("users.title"), [t("users.name"), t("users.role"), t("users.made"), t("tokens.action")], users.map((user) => [h("strong", user.name), user.admin ? t("users.admin") : t("users.member"), user.createdAt ? timeAgo(user.createdAt) : "–", user.userId === me.userId ? h("span.muted", t("users.you")) : h("span.row-actions", button(t("users.new_link"), { name: "key", on: () => link(user) }), button(t("users.remove"), { name: "trash", on: () => remove(user) }))])));
    } catch (error) {
      if (!signal.aborted) fill(list, errorState(error, load));
    }
  };
  const showLink = ({ signIn }) => fill(made, secret(t("users.link"), new URL(signIn, location.href).href));
  const link = (user) => attempt(async () => showLink(await api.post(apiPath("users", user.userId, "sign-in"))));
  const remove = async (user) => {
    const sure = await confirm({ title: t("users.remove_title", { name: user.name }), text: t("users.remove_text"), yes: t("users.remove") });
    if (sure && (await attempt(() => api.delete(apiPath("users", user.userId)), t("users.removed")))) load();
  };
  const name = h("input", { required: true, maxlength: 64, autocomplete: "off" });
  const admin = h("input", { type: "checkbox" });
  const send = async (element) => {
    const added = await api.post("/api/users", { name: name.value, admin: admin.checked });
    element.reset();
    showLink(added);
    load();
  };
  load();
  return section(t("users.title"), t("users.text"), made, list, form([field("user-name", t("users.name"), name), h("label.check", admin, h("span", t("users.as_admin")))], t("users.make"), send));
}
