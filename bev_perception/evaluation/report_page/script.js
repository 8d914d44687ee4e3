for (const player of document.querySelectorAll(".player")) {
  const frames = [...player.querySelectorAll("img")];
  const times = frames.map((frame) => Number(frame.dataset.ms));
  const button = player.querySelector(".play");
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  const said = player.querySelector(".said");
  let shown = 0;
  let timer = null;
  const show = (index) => {
    frames[shown].hidden = true;
    frames[index].hidden = false;
    shown = index;
    slider.value = index;
    output.textContent = (times[index] / 1000).toFixed(2) + " s";
    said.textContent = frames[index].dataset.said;
  };
  const next = () => {
    const following = (shown + 1) % frames.length;
    // real time between frames; a pause before it starts again
    timer = setTimeout(() => { show(following); next(); }, following ? times[following] - times[shown] : 1200);
  };
  const pause = () => { clearTimeout(timer); timer = null; button.textContent = "Play"; };
  const play = () => { button.textContent = "Pause"; next(); };
  button.addEventListener("click", () => (timer === null ? play() : pause()));
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  player.querySelector(".zoom").addEventListener("click", pause);
  if (frames.length > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}
const dialog = document.querySelector("dialog");
const stage = dialog.querySelector("div");
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img:not([hidden])").cloneNode();
    stage.replaceChildren(image);
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => stage.replaceChildren());
// paper shows what is folded
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
