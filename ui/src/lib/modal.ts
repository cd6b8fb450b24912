import type { Attachment } from "svelte/attachments";

/**
 * The browser's own dialog while it is mounted: it holds the focus, ends with Escape and gives the focus back.
 *
 * The browser tells of a dialog's end in a task of its own, after keys that are pressed meanwhile. Were that waited for,
 * a dialog opened anew by such a key would be taken for the one that has ended, and closed. So `closed` is told at once,
 * by whatever the dialog ends, and once.
 */
export class Modal {
  #element: HTMLDialogElement | undefined;
  #over = false;
  readonly #closed: () => void;

  constructor(closed: () => void) {
    this.#closed = closed;
  }

  /** Shows the dialog that it is attached to. */
  readonly show: Attachment<HTMLDialogElement> = (element) => {
    this.#element = element;
    element.showModal();
    const cancel = (event: Event) => {
      // A file chooser's end is told in the same name.
      if (event.target !== element) return;
      event.preventDefault();
      this.shut();
    };
    element.addEventListener("cancel", cancel);
    // The browser may end it unasked: a second Escape can't be refused.
    element.addEventListener("close", this.shut);
  };

  readonly shut = () => {
    if (this.#over) return;
    this.#over = true;
    this.#element?.close();
    this.#closed();
  };
}
