/* Search in a site that is opened from a disk: browsers start no worker from file:, so the search runs
   in a hidden frame instead, which takes and sends the same messages. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      const start = () => {
        document.body.appendChild(frame);
        this.inside = frame.contentWindow;
        this.inside.postMessage = (data) =>
          this.dispatchEvent(new MessageEvent("message", { data }));
        this.inside.importScripts = () => {};
        const script = this.inside.document.createElement("script");
        script.src = new URL(url, document.baseURI);
        script.onload = () => {
          this.ready = true;
          this.waiting.forEach((data) => this.postMessage(data));
        };
        this.inside.document.body.appendChild(script);
      };
      document.body ? start() : addEventListener("DOMContentLoaded", start);
    }
    postMessage(data) {
      if (this.ready) this.inside.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }
    terminate() {
      this.ready = false;
    }
  };
}
