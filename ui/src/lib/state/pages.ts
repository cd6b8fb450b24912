// Pages that containers serve, in the person's own browser.
import { api } from "../backend";
import { t } from "../texts";
import { attempt } from "./engine.svelte";
import { notify } from "./ui.svelte";

/** Opens a page and says so: the browser's window may come up behind this one, or take its time. */
export async function openPage(url: string) {
  const opened = await attempt(t("{url} could not be opened", { url }), async () => {
    await api().openUrl(url);
    return true;
  });
  if (opened) notify("done", t("Opened in the browser"), url);
}
