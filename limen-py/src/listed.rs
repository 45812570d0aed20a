//! The VMs of a list, as they are in memory.
//!
//! A look at a thousand VMs reads a few fields of each. So these four are not made of JSON, as every
//! other value is, but hold the inventory's own VM and answer those fields from it. They stand for the
//! classes of the same names in `limen._model`: `__class__` and `isinstance` say so, and whatever is not
//! answered here is asked of the true one, which is made of JSON when it is first needed.

use std::fmt;
use std::sync::Arc;

use limen_core::model::{Vm, VmState, VmStatus};
use limen_core::service::{ListedVm, VmPage};
use pyo3::basic::CompareOp;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule, PyTuple};

/// A page of VMs as Python's `Page` takes it. Its items are a tuple: they are values already.
pub(crate) fn page<'py>(py: Python<'py>, page: &VmPage) -> PyResult<Bound<'py, PyAny>> {
    let shelf = Arc::new(Shelf::of(py, page)?);
    let vms = (0..page.vms.len()).map(|place| Py::new(py, ListVm(Part::of(&shelf, place))));
    let answer = PyDict::new(py);
    answer.set_item("items", PyTuple::new(py, vms.collect::<PyResult<Vec<_>>>()?)?)?;
    answer.set_item("next_cursor", &page.next_cursor)?;
    answer.set_item("event", page.event)?;
    Ok(answer.into_any())
}

/// The VMs of a page, and what of Python their fields are made of: that of the interpreter which asked,
/// for each has classes of its own.
#[derive(Debug)]
struct Shelf {
    vms: Arc<[ListedVm]>,
    /// `limen._model`.
    model: Py<PyModule>,
    /// The members of `limen.VmState`, in the order of [`VmState::ALL`].
    states: Vec<Py<PyAny>>,
}

impl Shelf {
    fn of(py: Python<'_>, page: &VmPage) -> PyResult<Self> {
        let model = py.import("limen._model")?;
        let members = model.getattr("VmState")?;
        let states = VmState::ALL.iter().map(|state| Ok(members.call1((state.as_str(),))?.unbind()));
        let states = states.collect::<PyResult<_>>()?;
        Ok(Self { vms: Arc::clone(&page.vms), model: model.unbind(), states })
    }

    fn class<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.model.bind(py).getattr(name)
    }

    fn member(&self, py: Python<'_>, state: VmState) -> Option<Py<PyAny>> {
        let place = VmState::ALL.iter().position(|one| *one == state)?;
        Some(self.states.get(place)?.clone_ref(py))
    }
}

/// A VM, of which an object is the whole or a part.
struct Part {
    /// All of the page: one count for a thousand VMs, and none of them is touched before it is read.
    shelf: Arc<Shelf>,
    place: usize,
    /// The true one.
    made: PyOnceLock<Py<PyAny>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listed().fmt(f)
    }
}

impl Part {
    fn of(shelf: &Arc<Shelf>, place: usize) -> Self {
        Self { shelf: Arc::clone(shelf), place, made: PyOnceLock::new() }
    }

    /// Another part of the same VM.
    fn part(&self) -> Self {
        Self::of(&self.shelf, self.place)
    }

    fn listed(&self) -> &ListedVm {
        &self.shelf.vms[self.place]
    }

    fn vm(&self) -> &Vm {
        &self.listed().vm
    }

    /// The true VM, or what `field` of it is.
    fn made<'py>(&self, py: Python<'py>, field: Option<&str>) -> PyResult<&Bound<'py, PyAny>> {
        let make = || {
            let data = py.import("json")?.call_method1("loads", (&*self.listed().json(),))?;
            let vm = self.shelf.class(py, "Vm")?.call_method1("_of", (data,))?;
            Ok(field.map_or(Ok(vm.clone()), |field| vm.getattr(field))?.unbind())
        };
        self.made.get_or_try_init(py, make).map(|made| made.bind(py))
    }
}

macro_rules! listed {
    ($name:ident = $class:literal, $field:expr; $($getters:tt)*) => {
        #[doc = concat!("What stands for `limen.", $class, "`.")]
        #[pyclass(frozen, name = $class, module = "limen")]
        #[derive(Debug)]
        pub(crate) struct $name(Part);

        #[pymethods]
        impl $name {
            $($getters)*

            #[getter]
            fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.shelf.class(py, $class)
            }

            fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.getattr(name)
            }

            fn __setattr__(&self, name: &str, _value: &Bound<'_, PyAny>) -> PyResult<()> {
                Err(PyAttributeError::new_err(format!(concat!($class, " cannot be changed: {}"), name)))
            }

            fn __delattr__(&self, name: &str) -> PyResult<()> {
                Err(PyAttributeError::new_err(format!(concat!($class, " cannot be changed: {}"), name)))
            }

            fn __richcmp__<'py>(
                &self,
                py: Python<'py>,
                other: &Bound<'py, PyAny>,
                how: CompareOp,
            ) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.rich_compare(other, how)
            }

            fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
                self.0.made(py, $field)?.hash()
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                Ok(self.0.made(py, $field)?.repr()?.to_string())
            }

            fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.call_method0("__reduce__")
            }

            fn __dir__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.call_method0("__dir__")
            }
        }
    };
}

listed! { ListVm = "Vm", None;
    #[getter]
    fn id(&self) -> String {
        self.0.vm().id.to_string()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.vm().name
    }

    #[getter]
    fn host(&self) -> &str {
        &self.0.vm().host
    }

    #[getter]
    fn spec(&self) -> Option<ListSpec> {
        self.0.vm().spec.is_some().then(|| ListSpec(self.0.part()))
    }

    #[getter]
    fn observed_spec(&self) -> Option<ListObserved> {
        self.0.vm().observed_spec.is_some().then(|| ListObserved(self.0.part()))
    }

    #[getter]
    fn status(&self) -> ListStatus {
        ListStatus(self.0.part())
    }
}

macro_rules! sized {
    ($name:ident = $class:literal, $field:ident) => {
        listed! { $name = $class, Some(stringify!($field));
            #[getter]
            fn vcpus(&self) -> Option<u32> {
                self.0.vm().$field.as_ref().map(|spec| spec.vcpus)
            }

            #[getter]
            fn memory_mib(&self) -> Option<u64> {
                self.0.vm().$field.as_ref().map(|spec| spec.memory_mib)
            }
        }
    };
}

sized! { ListSpec = "VmSpec", spec }
sized! { ListObserved = "ObservedSpec", observed_spec }

impl ListStatus {
    fn status(&self) -> &VmStatus {
        &self.0.vm().status
    }
}

listed! { ListStatus = "VmStatus", Some("status");
    #[getter]
    fn state(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.shelf.member(py, self.status().state)
    }

    #[getter]
    fn reason(&self) -> Option<&str> {
        self.status().reason.as_deref()
    }

    #[getter]
    fn stale(&self) -> bool {
        self.0.listed().stale
    }
}
