// Sign-in by name and password. The first one is by the link that the program printed.
import { explain } from "../lib/api.js";
import { h, setText } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { brandMark, icon } from "../lib/icons.js";

/** Only our own paths: an address in the query must not lead away. */
export function safeBack(back) {
  return back && /^\/(?![/\\])/.test(back) && !back.startsWith("/sign-in") ? back : "/";
}

export default function signIn(root, { me, api, query, go, signedIn }) {
  const back = safeBack(query.get("back"));
  if (me) {
    go(back, { replace: true });
    return "";
  }
  // A link that signs in never gets here; one that was used or is unknown is answered with this page.
  const spent = query.has("token");
  const why = spent ? "signin.link_used" : query.get("reason") === "ended" ? "signin.ended" : null;
  if (spent) history.replaceState(null, "", "/sign-in");
  const name = h("input", { id: "name", name: "name", autocomplete: "username", required: true, maxlength: 200, autocapitalize: "none", spellcheck: "false" });
  const password = h("input", { id: "password", name: "password", type: "password", autocomplete: "current-password", required: true, maxlength: 1024 });
  const problem = h("p.problem", { role: "alert" });
  const submit = h("button.button.primary.wide", { type: "submit" }, t("signin.submit"));
  const send = async (event) => {
    event.preventDefault();
    setText(problem, "");
    submit.disabled = true;
    try {
      await api.post("/api/sign-in", { name: name.value, password: password.value }, { quiet: true });
      await signedIn(back);
    } catch (error) {
      setText(problem, error.status === 401 ? t("signin.wrong") : explain(error));
      password.value = "";
      password.focus();
    } finally {
      submit.disabled = false;
    }
  };
  root.append(
    h(
      "div.signin",
      h("div.signin-head", brandMark(44), h("h1", { tabindex: "-1" }, t("signin.title")), h("p.muted", t("signin.lead"))),
      why && h("p.notice", icon("key"), h("span", t(why))),
      h(
        "form.card.form",
        { on: { submit: send } },
        h("div.field", h("label", { for: "name" }, t("signin.name")), name),
        h("div.field", h("label", { for: "password" }, t("signin.password")), password),
        problem,
        submit,
      ),
      h("p.hint", t("signin.first"), " ", h("code", "munjigi up")),
    ),
  );
  name.focus();
  return t("signin.title");
}
