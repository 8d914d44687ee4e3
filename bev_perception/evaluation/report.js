for (const player of document.querySelectorAll(".player")) {
  const frames = [...player.querySelectorAll(".screen img")];
  const times = frames.map((frame) => Number(frame.dataset.ms));
  const button = player.querySelector("button");
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  let shown = 0;
  let timer = null;
  const show = (index) => {
    frames[shown].hidden = true;
    frames[index].hidden = false;
    shown = index;
    slider.value = index;
    output.textContent = (times[index] / 1000).toFixed(2) + " s";
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
  play();
}
