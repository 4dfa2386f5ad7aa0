// Browsers do not load modules from file:// addresses, so the page cannot say so itself.
if (location.protocol === "file:") {
  document.getElementById("status").textContent =
    "A page opened as a file cannot load the model. Run: python -m http.server, in this folder, and open the address that it prints.";
  document.getElementById("progress").hidden = true;
}
