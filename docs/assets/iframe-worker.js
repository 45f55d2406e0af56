/* The search of pages opened from disk.

Browsers start no worker from a file:// address, and the theme searches in one. Here a hidden frame takes its place: the
script of the worker runs in the frame, and messages pass between the two windows as events. The theme's script looks for
the name IFrameWorker: then it takes the addresses of what it imports from its own. */

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inner = frame.contentWindow

      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = this.inner.document.createElement("script")
          Object.assign(script, { src: source, onload: resolve, onerror: reject })
          this.inner.document.body.append(script)
        })
      // What the script of a worker finds around it:
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.inner.importScripts = async (...sources) => {
        for (const source of sources) await load(source)
      }
      this.ready = load(new URL(address, document.baseURI).href)
    }

    async postMessage(data) {
      await this.ready
      this.inner.dispatchEvent(new MessageEvent("message", { data }))
    }
  }
}
